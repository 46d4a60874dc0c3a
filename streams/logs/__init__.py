"""Readers of recorded logs: other people's files as columns that the joiner takes."""

from streams.logs.event_log import EventLog, LogError
from streams.logs.jsonl import JsonlLog, read_jsonl
from streams.logs.kuairand import read_kuairand
from streams.logs.open_bandit import read_open_bandit

__all__ = ["EventLog", "JsonlLog", "LogError", "read_jsonl", "read_kuairand", "read_open_bandit"]
