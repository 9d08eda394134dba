/** The schema of the log of translations, which `GatewayPolicy` and `VpcEgressGateway` share. Pure. */
import { flag, formatted, integer, list, object, oneOf, type Schema, withDefault } from './json-schema.ts';

const portRanges = list(
  object({ start: integer(0, 65535, 'The first port.'), end: integer(0, 65535, 'The last port.') }, [
    'start',
    'end',
  ]),
  'Ports, any of these ranges; empty: any.',
);
const tupleFilter = (description: string): Schema =>
  object(
    {
      sourceCIDRs: list(formatted('prefix'), 'Sources; empty: any.'),
      destinationCIDRs: list(formatted('prefix'), 'Destinations; empty: any.'),
      sourcePorts: portRanges,
      destinationPorts: portRanges,
    },
    [],
    description,
  );
const translationFilter = object({
  addressFamilies: list(oneOf(['ipv4', 'ipv6']), 'Address families; empty: both.'),
  protocols: list(oneOf(['tcp', 'udp', 'sctp', 'icmp', 'icmpv6', 'other']), 'Protocols; empty: all.'),
  natTypes: list(oneOf(['snat', 'dnat', 'snat_dnat']), 'Kinds of translation; empty: all.'),
  original: tupleFilter('The addresses and ports before the translation.'),
  translated: tupleFilter('The addresses and ports after it.'),
});

/** The log of translations, in the words of Kube-OVN's `observability.conntrack.log`. */
export const TRANSLATION_LOG_SCHEMA = object(
  {
    enabled: withDefault(flag('Write a record of each translation.'), false),
    events: withDefault(list(oneOf(['start', 'end']), 'Which records.'), ['start', 'end']),
    rateLimit: object(
      {
        recordsPerSecond: withDefault(integer(1, 100_000, 'Sustained.'), 100),
        burst: withDefault(integer(1, 1_000_000, 'At once.'), 1000),
      },
      [],
      'Records beyond it are counted, not written.',
    ),
    filters: object(
      {
        include: list(translationFilter, 'Only what one of these matches; empty: all.'),
        exclude: list(translationFilter, 'Not what one of these matches; takes precedence.'),
      },
      [],
      'Which translations are recorded.',
    ),
  },
  [],
  'Who was behind which address and port, as records in the log.',
);
