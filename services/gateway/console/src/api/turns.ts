// Who may hold a connection. A browser opens six to one host, and a stream keeps its own for as long as it is followed: where more are
// followed than there are places, they take turns, so that pages, scripts and answers always get through.

export interface Turn {
  /** Fires when the place is wanted by another. */
  over: AbortSignal;
  /** The stream is open: from now on the turn counts. */
  begin: () => void;
  /** Give the place back. */
  end: () => void;
}

interface Held {
  stop: AbortController;
  since: number | null;
}

export class Turns {
  private readonly held = new Set<Held>();
  private readonly waiting: ((turn: Turn) => void)[] = [];
  private timer: ReturnType<typeof setTimeout> | null = null;

  /** `places` streams at once; where others wait, each for `length` milliseconds. */
  constructor(
    private readonly places: number,
    private readonly length: number,
  ) {}

  /** Wait for a place; null when it is not wanted any more. */
  take(stopped: AbortSignal): Promise<Turn | null> {
    if (stopped.aborted) return Promise.resolve(null);
    if (this.held.size < this.places) return Promise.resolve(this.give());
    return new Promise((resolve) => {
      this.waiting.push(resolve);
      stopped.addEventListener("abort", () => {
        const at = this.waiting.indexOf(resolve);
        if (at < 0) return;
        this.waiting.splice(at, 1);
        resolve(null);
      }, { once: true });
      this.hurry();
    });
  }

  private give(): Turn {
    const mine: Held = { stop: new AbortController(), since: null };
    this.held.add(mine);
    return { over: mine.stop.signal, begin: () => ((mine.since = Date.now()), this.hurry()), end: () => this.free(mine) };
  }

  /** Hand the place to who waits longest: whoever leaves it comes after them. */
  private free(mine: Held): void {
    if (this.held.delete(mine)) this.waiting.shift()?.(this.give());
  }

  /** End the oldest turn when it has lasted long enough, now or later. */
  private hurry(): void {
    if (this.timer !== null) clearTimeout(this.timer);
    this.timer = null;
    if (this.waiting.length === 0) return;
    const oldest = [...this.held].filter(({ since, stop }) => since !== null && !stop.signal.aborted).sort((a, b) => (a.since ?? 0) - (b.since ?? 0))[0];
    if (oldest === undefined) return;
    const left = this.length - (Date.now() - (oldest.since ?? 0));
    if (left <= 0) oldest.stop.abort();
    else this.timer = setTimeout(() => this.hurry(), left);
  }
}
