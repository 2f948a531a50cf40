"""What a report counts in one pass over the rows, in bounded memory."""
