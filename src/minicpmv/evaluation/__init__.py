"""Models to scores: questions with known answers, asked the way a user asks, with confidence intervals."""
