"""Row operations and small matrix products in Triton. They import torch and triton alone and can be used without llava_kit."""
