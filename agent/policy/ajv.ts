/** ajv as the schemas of policy documents need it. Only the sources and the build load it. Pure. */
import { Ajv, type CodeOptions } from 'ajv';
import { FORMAT_TESTS } from './format-tests.ts';

/** Every error is reported, with the value and the schema that it violates. */
export const newAjv = (code: CodeOptions = {}): Ajv =>
  new Ajv({
    strict: true,
    allErrors: true,
    verbose: true,
    allowUnionTypes: true,
    formats: FORMAT_TESTS,
    code,
  });
