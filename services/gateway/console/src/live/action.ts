// Asking the gateway to do something: one request at a time, a word when it is done, and the refusal in the gateway's own words.
import { useToast } from "primevue/usetoast";
import { ref, shallowRef, type Ref, type ShallowRef } from "vue";
import { useI18n } from "vue-i18n";
import { asProblem, isAbort, UNREACHABLE, type Problem } from "@/api/problem";
import { useCodes } from "@/components/codes";

export interface Action {
  busy: Ref<boolean>;
  /** The answer, or undefined when it was refused (the person was told). */
  run: <T>(request: () => Promise<T>, done?: string | ((answer: T) => string)) => Promise<T | undefined>;
  refused: (thrown: unknown) => void;
}

export function useAction(): Action {
  const toast = useToast();
  const { t } = useI18n();
  const words = useCodes();
  const busy = ref(false);

  function refused(thrown: unknown): void {
    const problem = asProblem(thrown);
    const unreachable = problem.code === UNREACHABLE;
    const told = unreachable ? [t("frame.unreachable.detail")] : [words("problems", problem.code), problem.detail, problem.hint];
    toast.add({ severity: "error", summary: t("frame.refused"), detail: told.filter(Boolean).join(" "), life: 10_000 });
  }

  async function run<T>(request: () => Promise<T>, done?: string | ((answer: T) => string)): Promise<T | undefined> {
    busy.value = true;
    try {
      const answer = await request();
      const detail = typeof done === "function" ? done(answer) : done;
      toast.add({ severity: "success", summary: t("frame.done"), detail, life: 5000 });
      return answer;
    } catch (thrown) {
      refused(thrown);
      return undefined;
    } finally {
      busy.value = false;
    }
  }

  return { busy, run, refused };
}

export interface Attempt {
  busy: Ref<boolean>;
  /** What went wrong with the last try. */
  problem: ShallowRef<Problem | null>;
  attempt: (work: () => Promise<void>) => Promise<void>;
}

/** Asking for what is refused in place, beside the form, rather than in a passing word. */
export function useAttempt(): Attempt {
  const busy = ref(false);
  const problem = shallowRef<Problem | null>(null);
  async function attempt(work: () => Promise<void>): Promise<void> {
    busy.value = true;
    problem.value = null;
    try {
      await work();
    } catch (thrown) {
      if (!isAbort(thrown)) problem.value = asProblem(thrown);
    } finally {
      busy.value = false;
    }
  }
  return { busy, problem, attempt };
}
