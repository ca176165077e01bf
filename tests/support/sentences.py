"""Sentences whose embeddings are compared."""

SENTENCES = [
    "The cat sat on the mat.",
    "A feline rested on the rug.",
    "Stock markets fell sharply on Monday.",
    "How do I reset my password?",
    "The quick brown fox jumps over the lazy dog.",
    "Water boils at one hundred degrees at sea level.",
    "She sold her bicycle to a neighbour.",
    "Quantum computers use superposition.",
    "It rained for three days without a break.",
    "The museum opens at nine in the morning.",
    "Please send the invoice by Friday.",
    "Bread, butter, and a little salt.",
    "The train to the coast was late again.",
    "Children were laughing in the playground.",
    "He forgot to water the plants.",
    "An orchestra tuned its instruments.",
    "This function returns the sum of two tensors.",
    "Volcanoes shape islands over millions of years.",
    "The contract expires at the end of the year.",
    "Why is the sky blue?",
]
