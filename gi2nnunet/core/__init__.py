"""Ground that every other package stands on: errors, files, locks, workers."""
