"""transformers' own greedy answer to a chat question: its ids without the stop, and its text.

python bench/accept/reference_answer.py MODEL QUESTION MAX_TOKENS
"""

from __future__ import annotations

import json
import sys


def main() -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    path, question, max_tokens = sys.argv[1:]
    tokenizer = AutoTokenizer.from_pretrained(path)
    network = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    inputs = tokenizer.apply_chat_template(
        [{"role": "user", "content": question}],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
    )
    output = network.generate(**inputs, max_new_tokens=int(max_tokens), do_sample=False)
    ids = output[0, inputs["input_ids"].shape[1] :].tolist()
    if ids[-1] == network.generation_config.eos_token_id:
        ids.pop()
    print(json.dumps({"token_ids": ids, "text": tokenizer.decode(ids)}))


if __name__ == "__main__":
    main()
