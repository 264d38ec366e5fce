"""What the horde can do right now: its status, its use and its workers, merged by model."""
