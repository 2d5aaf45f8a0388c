"""What people see: text, tables, colours, durations, progress. Takes plain values and records; decides nothing."""
