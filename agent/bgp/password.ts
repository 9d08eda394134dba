/** The password of a BGP session (RFC 2385), as FRR's configuration can hold it. Pure. */

/** TCP_MD5SIG_MAXKEYLEN (linux/tcp.h). */
const MAX_PASSWORD = 80;

/** Why a text is no password; undefined if it is one. The message does not hold it. */
export function passwordProblem(text: string): string | undefined {
  if (text === '') return 'the password is empty';
  if (text.length > MAX_PASSWORD)
    return `the password has ${text.length} characters; TCP takes at most ${MAX_PASSWORD}`;
  if (/^[\x21-\x7e]+$/.test(text)) return undefined;
  return 'the password must be one word of printable ASCII characters; FRR takes no other';
}
