"""A grid of organisms: one file describes the study, one command trains, evaluates, judges and reports it anywhere."""
