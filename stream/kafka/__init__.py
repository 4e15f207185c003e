"""How a broker is reached, asked and written."""
