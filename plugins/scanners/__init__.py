"""What answers say beside their scores: refusals, code, repetition, and the training domain where nobody asked."""
