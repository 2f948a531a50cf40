"""The dataset card: the page that tells people what an output holds."""
