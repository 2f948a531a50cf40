"""A page about an output: one HTML file that needs no network, and shows text from anywhere as text."""
