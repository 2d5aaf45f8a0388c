"""The fetcher: polls what runs, judges ends, collects results, frees capacity; and the janitor."""
