"""The methods ``finetune``, ``finetune_decoder`` and ``scratch``: all or half of the codec is trained."""
