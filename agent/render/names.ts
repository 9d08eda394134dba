/**
 * Names that Kubernetes accepts. A valid text stays as it is. Of any other what is fit is left, with a part of
 * its hash, so that the same text always becomes the same name and no two become one. Pure.
 */

/** The hexadecimal SHA-256 of a text. */
export type Hash = (text: string) => string;

/** What is in the name of a Deployment also begins those of its ReplicaSets, which add a dash and ten characters. */
const REPLICA_SET_SUFFIX = 11;

/** `clean` leaves what is fit, `end` is what comes after the hash. */
function fit(
  text: string,
  { fits, max, clean, end = '' }: { fits: RegExp; max: number; clean: string; end?: string },
  hash: Hash,
): string {
  if (text.length <= max && fits.test(text)) return text;
  const tail = `-${hash(text).slice(0, 8)}${end}`;
  return clean.slice(0, max - tail.length).replace(/[^A-Za-z0-9]+$/, '') + tail;
}

/** What begins with no letter or digit, or holds none, begins with this. */
const begun = (text: string, start: RegExp): string => (start.test(text) ? text : `veg-${text}`);

/** The name of a ConfigMap, a Deployment and most other objects: an RFC 1123 subdomain. */
export function objectName(text: string, hash: Hash): string {
  const clean = text.toLowerCase().replace(/[^a-z0-9]+/g, (other) => (other === '.' ? '.' : '-'));
  return fit(
    text,
    {
      fits: /^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$/,
      max: 253 - REPLICA_SET_SUFFIX,
      clean: begun(clean.replace(/^[-.]/, ''), /^[a-z0-9]/),
    },
    hash,
  );
}

/** The name of a Service: an RFC 1035 label, which begins with a letter. */
export function serviceName(text: string, hash: Hash): string {
  const clean = text
    .toLowerCase()
    .replace(/[^a-z0-9]+/g, '-')
    .replace(/^-/, '');
  return fit(text, { fits: /^[a-z]([-a-z0-9]*[a-z0-9])?$/, max: 63, clean: begun(clean, /^[a-z]/) }, hash);
}

/** The value of a label. */
export function labelValue(text: string, hash: Hash): string {
  const clean = text.replace(/[^-._A-Za-z0-9]+/g, '-').replace(/^[-._]+/, '');
  return fit(
    text,
    { fits: /^[A-Za-z0-9]([-._A-Za-z0-9]*[A-Za-z0-9])?$/, max: 63, clean: begun(clean, /^[A-Za-z0-9]/) },
    hash,
  );
}

/** The key of a policy file in a ConfigMap, which is its name in the policy directory: one that is read there. */
export function fileKey(file: string, hash: Hash): string {
  const base = file === '-' ? 'stdin' : file.replace(/^.*\//, '');
  const [, stem = base, end = '.yaml'] = /^(.*)(\.(?:ya?ml|json))$/.exec(base) ?? [];
  const clean = stem.replace(/[^-._A-Za-z0-9]+/g, '-').replace(/^[-.]+/, '');
  return fit(
    stem + end,
    { fits: /^[_A-Za-z0-9][-._A-Za-z0-9]*$/, max: 253, clean: begun(clean, /^[_A-Za-z0-9]/), end },
    hash,
  );
}
