/**
 * The validator of each kind, compiled from its schema when the first document of the kind is read. Pure.
 *
 * This is for the sources: `npm run build` and the image's bundle put the code that ajv generates in the place of this
 * module (build.ts), so that a program loads neither ajv nor the schemas.
 */
import type { ValidateFunction } from 'ajv';
import { newAjv } from './ajv.ts';
import type { Kind } from './kinds.ts';
import { schemaOf } from './schema.ts';

const ajv = newAjv();

/** ajv keeps what it has compiled, by the schema. */
export const validatorOf = (kind: Kind): ValidateFunction => ajv.compile(schemaOf(kind));
