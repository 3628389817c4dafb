"""Many prompts in, many answers out, and nothing done twice."""
