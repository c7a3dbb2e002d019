"""A pretrained model on disk, judged without torch: its configuration, its weights' headers, its window."""
