"""What every flow has: named steps with times, locks, turns, and the meeting of two flows."""
