"""The language model: loading, tokenizer, chat tokens, image patches, batches and shared prefixes."""
