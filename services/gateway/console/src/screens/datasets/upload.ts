// Sends a file in pieces that survive a lost connection: the gateway says how far it came, and the next piece goes on from there.
import { sha256 } from "@noble/hashes/sha2.js";
import { bytesToHex } from "@noble/hashes/utils.js";
import { api, ask, type Schemas } from "@/api/client";
import { problemOf } from "@/api/problem";
import { session } from "@/app/session";

export type UploadState = Schemas["UploadState"];
export type Stage = "hashing" | "sending";

const PIECE = 8 << 20;
const TRIES = 5;

/** SHA-256 of a file, read piece by piece. (The browser's own hash needs the whole file in memory and a secure page.) */
export async function digest(file: Blob, told: (done: number) => void, signal: AbortSignal): Promise<string> {
  const hash = sha256.create();
  for (let at = 0; at < file.size; at += PIECE) {
    signal.throwIfAborted();
    hash.update(new Uint8Array(await file.slice(at, at + PIECE).arrayBuffer()));
    told(Math.min(at + PIECE, file.size));
  }
  return bytesToHex(hash.digest());
}

async function append(state: UploadState, file: Blob, signal: AbortSignal): Promise<UploadState> {
  const piece = file.slice(state.offset, state.offset + PIECE);
  const response = await fetch(`/api/v1/datasets/uploads/${state.upload_id}`, {
    method: "PATCH",
    headers: { Authorization: `Bearer ${session.token ?? ""}`, "Upload-Offset": String(state.offset), "Content-Type": "application/offset+octet-stream" },
    body: piece,
    signal,
  });
  const body: unknown = await response.json().catch(() => undefined);
  if (!response.ok) throw problemOf(response.status, body);
  return body as UploadState;
}

/** Upload a file; a lost connection is tried again from where the upload stands. Throws a Problem when it is refused. */
export async function upload(file: File, told: (stage: Stage, share: number) => void, signal: AbortSignal): Promise<UploadState> {
  const size = Math.max(file.size, 1);
  const sha = await digest(file, (done) => told("hashing", done / size), signal);
  let state = await ask(api.POST("/api/v1/datasets/uploads", { body: { filename: file.name, size_bytes: file.size, sha256: sha }, signal }));
  let failures = 0;
  while (state.offset < state.size_bytes) {
    told("sending", state.offset / size);
    try {
      state = await append(state, file, signal);
      failures = 0;
    } catch (thrown) {
      if (!(thrown instanceof TypeError) || ++failures >= TRIES) throw thrown;
      await new Promise((resolve) => setTimeout(resolve, 500 * 2 ** failures));
      const path = { upload_id: state.upload_id };
      state = await ask(api.GET("/api/v1/datasets/uploads/{upload_id}", { params: { path }, signal })).catch(() => state);
    }
  }
  told("sending", 1);
  return state;
}
