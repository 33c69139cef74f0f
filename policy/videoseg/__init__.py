"""The multi-turn policy: Qwen3-VL whose [SEG] state prompts SAM 2."""
