"""`scorl serve`: two attempts behind one endpoint that speaks OpenAI's protocol, in front of another that does."""
