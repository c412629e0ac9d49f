// Tokens of a rendered row as the gateway tells them: which are trained, and where the row was cut. Pure.
export interface Token {
  id: number;
  token: string;
  text: string;
  trained: boolean;
  cut: boolean;
}
export interface MaskedRow {
  row_id: string;
  verdict: string;
  tokens?: number;
  trained?: number;
  kept?: number;
  kept_trained?: number;
  detail?: Token[];
  problem?: { message: string; hint?: string } | string | null;
}
export type Fate = "trained" | "masked" | "cut";
export interface Run {
  fate: Fate;
  /** Index of the first token. */
  from: number;
  tokens: Token[];
}

export function fate(token: Token): Fate {
  if (token.cut) return "cut";
  return token.trained ? "trained" : "masked";
}

/** Neighbouring tokens of one fate together. */
export function runs(tokens: Token[]): Run[] {
  const found: Run[] = [];
  tokens.forEach((token, index) => {
    const last = found.at(-1);
    if (last?.fate === fate(token)) last.tokens.push(token);
    else found.push({ fate: fate(token), from: index, tokens: [token] });
  });
  return found;
}
