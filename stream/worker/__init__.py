"""The process: wiring, signals, health, who watches."""
