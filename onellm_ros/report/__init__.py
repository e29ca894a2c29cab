"""Pictures for people of what the robot sensed and said."""
