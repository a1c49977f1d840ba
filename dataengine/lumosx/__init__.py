"""The LumosX DiT: mathematics, objective, sampler, weights and trainer. Import its modules; none is loaded here."""
