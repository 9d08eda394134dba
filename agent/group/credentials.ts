/**
 * What members authenticate each other with: a shared key, or certificates (docs/design/0009-group.md). Files are read
 * again and again; a key that was replaced is accepted for a while longer, so that members may get the new one one
 * after the other.
 */
import { createHash, createPrivateKey, hkdfSync, X509Certificate } from 'node:crypto';
import type { PeerCertificate } from 'node:tls';
import { readMounted, readProblem, readSecret, refuseReadableByOthers } from '../../lib/files.ts';

/** `spec.group`'s files. */
export type CredentialFiles = { keyFile: string } | { certFile: string; certKeyFile: string; caFile: string };

/** A key of less could be found by trying, from one recorded handshake. */
const MIN_KEY = 32;
const MAX_KEY = 4096;
const MAX_PEM = 256 << 10;
/** How long a former key is accepted, ms: longer than a kubelet takes to refresh a Secret. */
const GRACE = 150_000;

export interface GroupKey {
  /** Names the key in a handshake without revealing it. */
  identity: string;
  secret: Buffer;
}

export interface Certificates {
  /** Names what was read. */
  identity: string;
  cert: Buffer;
  key: Buffer;
  ca: Buffer;
  /** The names in our certificate, as `subjectAltName` prints them. */
  names: ReadonlySet<string>;
}

/** The key of a file: its octets, without a line end. Throws with a message that does not hold it. */
export function readGroupKey(path: string): GroupKey {
  let octets = readSecret(path, MAX_KEY);
  while (octets.at(-1) === 0x0a || octets.at(-1) === 0x0d) octets = octets.subarray(0, -1);
  if (octets.length < MIN_KEY) {
    throw new Error(
      `${path} holds ${octets.length} octets; a key needs at least ${MIN_KEY} random ones: openssl rand -hex 32`,
    );
  }
  const derive = (purpose: string, length: number) =>
    Buffer.from(hkdfSync('sha256', octets, '', `veg-agent group ${purpose}`, length));
  return { identity: `veg-group-${derive('identity', 8).toString('hex')}`, secret: derive('psk', 32) };
}

/** What is wrong with the files, and which field of `spec.group` names the one that is to blame. */
export function credentialProblem(
  files: CredentialFiles,
): { field: 'keyFile' | 'certFile'; message: string } | undefined {
  try {
    if ('keyFile' in files) readGroupKey(files.keyFile);
    else readCertificates(files);
    return undefined;
  } catch (error) {
    return { field: 'keyFile' in files ? 'keyFile' : 'certFile', message: readProblem(error as Error) };
  }
}

/** Certificate, its key and the CA's certificates, in PEM. Throws when one is missing or they do not belong together. */
export function readCertificates(files: Exclude<CredentialFiles, { keyFile: string }>): Certificates {
  refuseReadableByOthers(files.certKeyFile);
  const [cert, key, ca] = [files.certFile, files.certKeyFile, files.caFile].map((path) =>
    readMounted(path, MAX_PEM),
  ) as [Buffer, Buffer, Buffer];
  const parsed = parseCertificate(cert, files.certFile);
  parseCertificate(ca, files.caFile);
  const names = namesIn(parsed.subjectAltName);
  if (names.size === 0) throw new Error(`${files.certFile} has no subjectAltName`);
  checkPrivateKey(parsed, key, files);
  const identity = createHash('sha256').update(cert).update(key).update(ca).digest('hex');
  return { identity, cert, key, ca, names };
}

function parseCertificate(pem: Buffer, path: string): X509Certificate {
  try {
    return new X509Certificate(pem);
  } catch (error) {
    throw new Error(`${path} is not a certificate in PEM: ${(error as Error).message}`);
  }
}

function checkPrivateKey(
  certificate: X509Certificate,
  key: Buffer,
  { certFile, certKeyFile }: { certFile: string; certKeyFile: string },
): void {
  let parsed: ReturnType<typeof createPrivateKey>;
  try {
    parsed = createPrivateKey(key);
  } catch {
    // The error of the parser may quote the key.
    throw new Error(`${certKeyFile} is not a private key in PEM`);
  }
  if (!certificate.checkPrivateKey(parsed)) throw new Error(`${certKeyFile} is not the key of ${certFile}`);
}

const namesIn = (text = ''): Set<string> => new Set(text.split(', ').filter(Boolean));

/** An error of ours about the other end's certificate, known by its code as Node's own are. */
export const refusal = (message: string): Error =>
  Object.assign(new Error(message), { code: 'ERR_GROUP_CERT' });

/** Why another member's certificate is refused although the CA signed it: it has none of our names. */
export function wrongCertificate(
  { names }: Certificates,
  { subjectaltname }: PeerCertificate,
): Error | undefined {
  if ([...namesIn(subjectaltname)].some((name) => names.has(name))) return undefined;
  return refusal(
    `the certificate is for ${subjectaltname ?? 'nobody'}, ours is for ${[...names].join(', ')}`,
  );
}

/** What is in force. */
export class Credentials {
  #files: CredentialFiles;
  readonly #grace: number;
  /** The present key first. */
  #keys: readonly GroupKey[] = [];
  #formerUntil = 0;
  #certificates: Certificates | undefined;
  /** The present one first. */
  #identities: readonly string[] = [];

  /** @param grace how long a former key is accepted, ms */
  constructor(files: CredentialFiles, grace = GRACE) {
    this.#files = files;
    this.#grace = grace;
  }

  /** Other files, from the next `refresh` on. */
  use(files: CredentialFiles): void {
    this.#files = files;
  }

  /** The keys to accept, the present one first; empty with certificates, and while none could be read. */
  get keys(): readonly GroupKey[] {
    return this.#keys;
  }

  /** What connections may have been authenticated with, the present key or certificate first. */
  get identities(): readonly string[] {
    return this.#identities;
  }

  get certificates(): Certificates | undefined {
    return this.#certificates;
  }

  /**
   * Reads the files again. What was read before stays in force while they cannot be read. Returns whether anything
   * changed, and why they cannot be read.
   */
  refresh(now: number): { changed: boolean; problem?: string } {
    const expired = this.#identities.length > 1 && now >= this.#formerUntil;
    if (expired) {
      this.#keys = this.#keys.slice(0, 1);
      this.#identities = this.#identities.slice(0, 1);
    }
    try {
      return { changed: this.#read(now) || expired };
    } catch (error) {
      return { changed: expired, problem: readProblem(error as Error) };
    }
  }

  #read(now: number): boolean {
    const files = this.#files;
    const read = 'keyFile' in files ? readGroupKey(files.keyFile) : readCertificates(files);
    const [present] = this.#identities;
    if (present === read.identity) return false;
    this.#identities = present === undefined ? [read.identity] : [read.identity, present];
    this.#formerUntil = now + this.#grace;
    // A former key is not accepted beside certificates, nor the other way: only connections that are there go on.
    this.#keys = 'secret' in read ? [read, ...this.#keys.slice(0, 1)] : [];
    this.#certificates = 'secret' in read ? undefined : read;
    return true;
  }
}
