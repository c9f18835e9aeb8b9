"""What numbers about responses are worth: intervals, votes, rankings. Pure functions that know no model."""
