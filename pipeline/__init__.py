"""Control plane: command line, settings, cohorts, Ray session and placement, tracking."""
