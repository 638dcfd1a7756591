"""The ways to let a frozen LLM hear, side by side: ours and the field's, behind one protocol (see ``protocol``)."""
