"""The loop as a distributed stream: a Faust app whose agents join and learn, on Kafka."""
