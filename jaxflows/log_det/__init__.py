"""Log-determinants: exact, power series, Russian roulette; every estimate with its standard error."""
