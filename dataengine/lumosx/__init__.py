"""The LumosX DiT: model mathematics, objective, sampler, weights and trainer. Import the modules you need; none is loaded here."""
