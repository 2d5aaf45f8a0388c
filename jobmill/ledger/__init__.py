"""The record: every Redis key, every Lua script, every change of state. Nothing else in the project names a key."""
