"""What reads an output after the run: it checks, compares and shows, and changes nothing."""
