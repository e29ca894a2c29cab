"""The model core: modality tokenizers, shared encoder, UPM, language model, text and checkpoints.

Sizes come from :class:`onellm_ros.config.ModelConfig` alone; the same code runs the released 7B
weights and the small default model.
"""
