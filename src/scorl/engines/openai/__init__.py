"""The engine `openai`: models behind endpoints that speak OpenAI's protocol."""
