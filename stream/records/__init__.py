"""The bytes on every topic, both ways: no client, no clock."""
