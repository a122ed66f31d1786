"""How accurate a net is, clean and under attack, and how that is written down and drawn."""
