"""The command line: parser, commands, progress, logs. The only place that prints and exits."""
