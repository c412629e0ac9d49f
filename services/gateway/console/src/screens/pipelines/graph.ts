// The stages of a run as a graph, with the kinds of stages in the reader's language. A stage may need one that was fanned out (`train` for `train[0]`, `train[1]`). Pure.
import type { GraphEdge, GraphNode } from "@/components/GraphView.vue";

export interface StageLike {
  key: string;
  kind: string;
  needs: string[];
  state?: string;
}

export function graphOf(stages: StageLike[], kindName: (kind: string) => string): { nodes: GraphNode[]; edges: GraphEdge[] } {
  const nodes = stages.map(({ key, kind, state }) => ({ id: key, title: key, detail: kindName(kind), state }));
  const edges = stages.flatMap((stage) =>
    stage.needs.flatMap((need) =>
      stages.filter(({ key }) => key === need || key.startsWith(`${need}[`)).map(({ key }) => ({ from: key, to: stage.key })),
    ),
  );
  return { nodes, edges };
}
