"""A cluster in virtual time: its clients, and what they got. The router is the production code."""
