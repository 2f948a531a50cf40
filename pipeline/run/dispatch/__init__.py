"""Which replica does which task, and what follows from its report or its death."""
