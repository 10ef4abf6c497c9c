"""Training recipes: functions that return configurations, and programs that run them end to end."""
