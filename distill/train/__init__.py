"""The trainer: one step for distillation and pretraining, and everything that keeps it going."""
