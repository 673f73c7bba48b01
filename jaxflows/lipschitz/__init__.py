"""Networks with a certified Lipschitz constant and what they are made of."""
