// Recipes to begin with, small enough to run anywhere; docs/recipes.md explains every key.
const base = {
  name: "my-job",
  model: { path: "" },
  dataset: { name: "" },
  training: { steps: 100, batch_size: 16, learning_rate: 1e-5, max_length: 1024, save_every: 50 },
};
const evaluation = { scorer: "numeric", max_rows: 100 };

export const PRESETS: Record<string, object> = {
  sft: { ...base, algorithm: "sft", training: { ...base.training, learning_rate: 2e-5 }, evaluation },
  lora: { ...base, algorithm: "sft", training: { ...base.training, learning_rate: 1e-4, lora_rank: 16 }, evaluation },
  grpo: { ...base, algorithm: "grpo", training: { ...base.training, learning_rate: 1e-6 }, reinforcement: { samples_per_prompt: 8, scorer: "numeric", kl_loss_coefficient: 0.001 }, evaluation },
  gspo: { ...base, algorithm: "gspo", training: { ...base.training, learning_rate: 1e-6 }, reinforcement: { samples_per_prompt: 8, scorer: "numeric" }, evaluation },
  ppo: { ...base, algorithm: "ppo", training: { ...base.training, learning_rate: 1e-6 }, reinforcement: { samples_per_prompt: 1, scorer: "numeric" }, critic: { learning_rate: 1e-5 }, evaluation },
  dpo: { ...base, algorithm: "dpo", training: { ...base.training, learning_rate: 5e-7 }, preference: { beta: 0.1 } },
};
