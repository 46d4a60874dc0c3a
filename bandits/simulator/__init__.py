"""Simulated users, clicks and delays, and the fixed environment on which regret is measured."""
