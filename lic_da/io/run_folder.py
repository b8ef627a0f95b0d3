"""Names of files in the folder of a run; docs/files.md says what they hold."""

CONFIG = "config.yaml"
SUMMARY = "summary.json"
PACK = "pack"
FAILURE = "failure.json"
"""Of a job of a sweep that failed."""
RUNNING = "running.json"
"""As long as a process is at it."""
